"""KMIP's tags: numbers ↔ names as the XML profile spells them. Of versions 1.0 to 2.1, section "Tags"."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Tag(IntEnum):
    """Those that the code names."""

    APPLICATION_NAMESPACE = 0x420003
    ASYNCHRONOUS_CORRELATION_VALUE = 0x420006
    ASYNCHRONOUS_INDICATOR = 0x420007
    ATTRIBUTE = 0x420008
    ATTRIBUTE_INDEX = 0x420009
    ATTRIBUTE_NAME = 0x42000A
    ATTRIBUTE_VALUE = 0x42000B
    AUTHENTICATION = 0x42000C
    BATCH_COUNT = 0x42000D
    BATCH_ERROR_CONTINUATION_OPTION = 0x42000E
    BATCH_ITEM = 0x42000F
    BATCH_ORDER_OPTION = 0x420010
    BLOCK_CIPHER_MODE = 0x420011
    COMPROMISE_OCCURRENCE_DATE = 0x420021
    CRYPTOGRAPHIC_ALGORITHM = 0x420028
    CRYPTOGRAPHIC_LENGTH = 0x42002A
    CRYPTOGRAPHIC_PARAMETERS = 0x42002B
    CRYPTOGRAPHIC_USAGE_MASK = 0x42002C
    ENCRYPTION_KEY_INFORMATION = 0x420036
    IV_COUNTER_NONCE = 0x42003D
    KEY = 0x42003F
    KEY_BLOCK = 0x420040
    KEY_COMPRESSION_TYPE = 0x420041
    KEY_FORMAT_TYPE = 0x420042
    KEY_MATERIAL = 0x420043
    KEY_VALUE = 0x420045
    KEY_WRAPPING_DATA = 0x420046
    KEY_WRAPPING_SPECIFICATION = 0x420047
    MAC_SIGNATURE = 0x42004D
    MAC_SIGNATURE_KEY_INFORMATION = 0x42004E
    MAXIMUM_ITEMS = 0x42004F
    MAXIMUM_RESPONSE_SIZE = 0x420050
    MESSAGE_EXTENSION = 0x420051
    NAME = 0x420053
    NAME_TYPE = 0x420054
    NAME_VALUE = 0x420055
    OBJECT_TYPE = 0x420057
    OFFSET = 0x420058
    OPERATION = 0x42005C
    PROTOCOL_VERSION = 0x420069
    PROTOCOL_VERSION_MAJOR = 0x42006A
    PROTOCOL_VERSION_MINOR = 0x42006B
    QUERY_FUNCTION = 0x420074
    REQUEST_HEADER = 0x420077
    REQUEST_MESSAGE = 0x420078
    REQUEST_PAYLOAD = 0x420079
    RESPONSE_HEADER = 0x42007A
    RESPONSE_MESSAGE = 0x42007B
    RESPONSE_PAYLOAD = 0x42007C
    RESULT_MESSAGE = 0x42007D
    RESULT_REASON = 0x42007E
    RESULT_STATUS = 0x42007F
    REVOCATION_MESSAGE = 0x420080
    REVOCATION_REASON = 0x420081
    REVOCATION_REASON_CODE = 0x420082
    SERVER_INFORMATION = 0x420088
    STATE = 0x42008D
    STORAGE_STATUS_MASK = 0x42008E
    SYMMETRIC_KEY = 0x42008F
    TEMPLATE_ATTRIBUTE = 0x420091
    TIME_STAMP = 0x420092
    UNIQUE_BATCH_ITEM_ID = 0x420093
    UNIQUE_IDENTIFIER = 0x420094
    VENDOR_IDENTIFICATION = 0x42009D
    WRAPPING_METHOD = 0x42009E
    ENCODING_OPTION = 0x4200A3
    EXTENSION_INFORMATION = 0x4200A4
    OBJECT_GROUP_MEMBER = 0x4200AC
    ATTESTATION_TYPE = 0x4200C7
    NONCE = 0x4200C8
    ATTESTATION_CAPABLE_INDICATOR = 0x4200D3
    OFFSET_ITEMS = 0x4200D4
    LOCATED_ITEMS = 0x4200D5
    KEY_WRAP_TYPE = 0x4200F8
    CLIENT_CORRELATION_VALUE = 0x420105
    SERVER_CORRELATION_VALUE = 0x420106
    EPHEMERAL = 0x420154
    SERVER_HASHED_PASSWORD = 0x420155


#: Names of consecutive numbers, from the first one.
_RUNS: Final = {
    0x420001: """
        ActivationDate ApplicationData ApplicationNamespace ApplicationSpecificInformation ArchiveDate
        AsynchronousCorrelationValue AsynchronousIndicator Attribute AttributeIndex AttributeName
        AttributeValue Authentication BatchCount BatchErrorContinuationOption BatchItem
        BatchOrderOption BlockCipherMode CancellationResult Certificate CertificateIdentifier
        CertificateIssuer CertificateIssuerAlternativeName CertificateIssuerDistinguishedName
        CertificateRequest CertificateRequestType CertificateSubject CertificateSubjectAlternativeName
        CertificateSubjectDistinguishedName CertificateType CertificateValue CommonTemplateAttribute
        CompromiseDate CompromiseOccurrenceDate ContactInformation Credential CredentialType
        CredentialValue CriticalityIndicator CRTCoefficient CryptographicAlgorithm
        CryptographicDomainParameters CryptographicLength CryptographicParameters
        CryptographicUsageMask CustomAttribute D DeactivationDate DerivationData DerivationMethod
        DerivationParameters DestroyDate Digest DigestValue EncryptionKeyInformation G
        HashingAlgorithm InitialDate InitializationVector Issuer IterationCount IVCounterNonce J Key
        KeyBlock KeyCompressionType KeyFormatType KeyMaterial KeyPartIdentifier KeyValue
        KeyWrappingData KeyWrappingSpecification LastChangeDate LeaseTime Link LinkType
        LinkedObjectIdentifier MACSignature MACSignatureKeyInformation MaximumItems
        MaximumResponseSize MessageExtension Modulus Name NameType NameValue ObjectGroup ObjectType
        Offset OpaqueDataType OpaqueDataValue OpaqueObject Operation OperationPolicyName P
        PaddingMethod PrimeExponentP PrimeExponentQ PrimeFieldSize PrivateExponent PrivateKey
        PrivateKeyTemplateAttribute PrivateKeyUniqueIdentifier ProcessStartDate ProtectStopDate
        ProtocolVersion ProtocolVersionMajor ProtocolVersionMinor PublicExponent PublicKey
        PublicKeyTemplateAttribute PublicKeyUniqueIdentifier PutFunction Q QString Qlength
        QueryFunction RecommendedCurve ReplacedUniqueIdentifier RequestHeader RequestMessage
        RequestPayload ResponseHeader ResponseMessage ResponsePayload ResultMessage ResultReason
        ResultStatus RevocationMessage RevocationReason RevocationReasonCode KeyRoleType Salt
        SecretData SecretDataType SerialNumber ServerInformation SplitKey SplitKeyMethod SplitKeyParts
        SplitKeyThreshold State StorageStatusMask SymmetricKey Template TemplateAttribute TimeStamp
        UniqueBatchItemID UniqueIdentifier UsageLimits UsageLimitsCount UsageLimitsTotal
        UsageLimitsUnit Username ValidityDate ValidityIndicator VendorExtension VendorIdentification
        WrappingMethod X Y Password DeviceIdentifier EncodingOption ExtensionInformation ExtensionName
        ExtensionTag ExtensionType Fresh MachineIdentifier MediaIdentifier NetworkIdentifier
        ObjectGroupMember CertificateLength DigitalSignatureAlgorithm CertificateSerialNumber
        DeviceSerialNumber IssuerAlternativeName IssuerDistinguishedName SubjectAlternativeName
        SubjectDistinguishedName X_509CertificateIdentifier X_509CertificateIssuer
        X_509CertificateSubject KeyValueLocation KeyValueLocationValue KeyValueLocationType
        KeyValuePresent OriginalCreationDate PGPKey PGPKeyVersion AlternativeName AlternativeNameValue
        AlternativeNameType Data SignatureData DataLength RandomIV MACData AttestationType Nonce
        NonceID NonceValue AttestationMeasurement AttestationAssertion IVLength TagLength
        FixedFieldLength CounterLength InitialCounterValue InvocationFieldLength
        AttestationCapableIndicator OffsetItems LocatedItems CorrelationValue InitIndicator
        FinalIndicator RNGParameters RNGAlgorithm DRBGAlgorithm FIPS186Variation PredictionResistance
        RandomNumberGenerator ValidationInformation ValidationAuthorityType ValidationAuthorityCountry
        ValidationAuthorityURI ValidationVersionMajor ValidationVersionMinor ValidationType
        ValidationLevel ValidationCertificateIdentifier ValidationCertificateURI ValidationVendorURI
        ValidationProfile ProfileInformation ProfileName ServerURI ServerPort StreamingCapability
        AsynchronousCapability AttestationCapability UnwrapMode DestroyAction ShreddingAlgorithm
        RNGMode ClientRegistrationMethod CapabilityInformation KeyWrapType BatchUndoCapability
        BatchContinueCapability PKCS_12FriendlyName Description Comment
        AuthenticatedEncryptionAdditionalData AuthenticatedEncryptionTag SaltLength MaskGenerator
        MaskGeneratorHashingAlgorithm PSource TrailerField ClientCorrelationValue
        ServerCorrelationValue DigestedData CertificateSubjectCN CertificateSubjectO
        CertificateSubjectOU CertificateSubjectEmail CertificateSubjectC CertificateSubjectST
        CertificateSubjectL CertificateSubjectUID CertificateSubjectSerialNumber
        CertificateSubjectTitle CertificateSubjectDC CertificateSubjectDNQualifier CertificateIssuerCN
        CertificateIssuerO CertificateIssuerOU CertificateIssuerEmail CertificateIssuerC
        CertificateIssuerST CertificateIssuerL CertificateIssuerUID CertificateIssuerSerialNumber
        CertificateIssuerTitle CertificateIssuerDC CertificateIssuerDNQualifier Sensitive
        AlwaysSensitive Extractable NeverExtractable ReplaceExisting Attributes CommonAttributes
        PrivateKeyAttributes PublicKeyAttributes ExtensionEnumeration ExtensionAttribute
        ExtensionParentStructureTag ExtensionDescription ServerName ServerSerialNumber ServerVersion
        ServerLoad ProductName BuildLevel BuildDate ClusterInfo AlternateFailoverEndpoints
        ShortUniqueIdentifier
    """,
    0x420138: """
        Tag CertificateRequestUniqueIdentifier NISTKeyType AttributeReference CurrentAttribute
        NewAttribute
    """,
    0x420140: """
        CertificateRequestValue LogMessage ProfileVersion ProfileVersionMajor ProfileVersionMinor
        ProtectionLevel ProtectionPeriod QuantumSafe QuantumSafeCapability Ticket TicketType
        TicketValue RequestCount Rights Objects Operations Right EndpointRole DefaultsInformation
        ObjectDefaults Ephemeral ServerHashedPassword OneTimePassword HashedPassword AdjustmentType
        PKCS_11Interface PKCS_11Function PKCS_11InputParameters PKCS_11OutputParameters
        PKCS_11ReturnCode ProtectionStorageMask ProtectionStorageMasks InteropFunction
        InteropIdentifier AdjustmentValue CommonProtectionStorageMasks PrivateProtectionStorageMasks
        PublicProtectionStorageMasks ObjectGroups ObjectTypes Constraints Constraint RotateInterval
        RotateAutomatic RotateOffset RotateDate RotateGeneration RotateName RotateNameValue
        RotateNameType RotateLatest AsynchronousRequest SubmissionDate ProcessingStage
        AsynchronousCorrelationValues
    """,
}

#: All names by number.
TAGS: Final = {
    first + offset: name for first, names in _RUNS.items() for offset, name in enumerate(names.split())
}

#: All numbers by name.
BY_NAME: Final = {name: number for number, name in TAGS.items()}
